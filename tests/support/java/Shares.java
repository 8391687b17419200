// A member of a share group that accepts every record and says so before it goes on, until it is killed.
// Arguments: bootstrap, topic, group. Prints "got TIME VALUE DELIVERY" for what it is given, "done TIME VALUE" for
// what the broker has said is acknowledged, "open TIME VALUE" where its answer is lost; times are milliseconds of the
// wall clock.

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicIdPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

public class Shares {
    public static void main(String[] args) {
        KafkaShareConsumer<String, String> consumer = new KafkaShareConsumer<>(
            Map.of("bootstrap.servers", args[0], "group.id", args[2], "max.poll.records", 20,
                "share.acknowledgement.mode", "explicit", "metadata.max.age.ms", 1_000),
            new StringDeserializer(), new StringDeserializer());
        consumer.subscribe(List.of(args[1]));
        while (true) {
            ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(500));
            Map<Integer, List<String>> given = new HashMap<>();
            for (ConsumerRecord<String, String> record : records) {
                say("got", record.value() + " " + record.deliveryCount().orElse((short) -1));
                consumer.acknowledge(record, AcknowledgeType.ACCEPT);
                given.computeIfAbsent(record.partition(), partition -> new ArrayList<>()).add(record.value());
            }
            for (Map.Entry<TopicIdPartition, Optional<KafkaException>> told : consumer.commitSync().entrySet()) {
                told.getValue().ifPresent(error -> System.err.println("refused: " + told.getKey() + ": " + error));
                String what = told.getValue().isPresent() ? "open" : "done";
                for (String value : given.getOrDefault(told.getKey().partition(), List.of())) say(what, value);
            }
        }
    }

    private static void say(String what, String of) {
        System.out.println(what + " " + System.currentTimeMillis() + " " + of);
    }
}
