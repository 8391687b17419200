import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.serialization.*;

/**
 * Kafka's own clients, for java_clients.py: a line of input is a JSON object with `call` and its arguments, a line of
 * output {"result": …} or {"refused": error code}. Bytes are in base64. Members and transactions are known by number.
 */
public class Driver {
    static final Duration PATIENCE = Duration.ofSeconds(30);
    static final ObjectMapper JSON = new ObjectMapper();

    final String bootstrap;
    final Admin admin;
    final Map<Integer, Consumer<byte[], byte[]>> members = new HashMap<>();
    final Map<Integer, Producer<byte[], byte[]>> transactions = new HashMap<>();

    Driver(String bootstrap) {
        this.bootstrap = bootstrap;
        admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
    }

    public static void main(String[] args) throws Exception {
        Driver driver = new Driver(args[0]);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                answer.set("result", driver.call(JSON.readTree(line)));
            } catch (Exception thrown) {
                Throwable cause = thrown;
                while ((cause instanceof ExecutionException || cause instanceof CompletionException)
                    || (cause.getClass() == KafkaException.class && cause.getCause() != null)) cause = cause.getCause();
                Errors error = Errors.forException(cause);
                answer.put("refused", error.code());
                if (error == Errors.UNKNOWN_SERVER_ERROR) cause.printStackTrace();
            }
            System.out.println(JSON.writeValueAsString(answer));
        }
        System.exit(0);
    }

    JsonNode call(JsonNode ask) throws Exception {
        switch (ask.get("call").asText()) {
            case "create_topic": {
                Map<String, String> configs = new HashMap<>();
                ask.get("configs").properties().forEach(entry -> configs.put(entry.getKey(), entry.getValue().asText()));
                NewTopic topic = new NewTopic(text(ask, "topic"), ask.get("partitions").asInt(), (short) 1);
                return none(admin.createTopics(List.of(topic.configs(configs))).all());
            }
            case "add_partitions":
                return none(admin.createPartitions(
                    Map.of(text(ask, "topic"), NewPartitions.increaseTo(ask.get("total").asInt()))).all());
            case "delete_topic":
                return none(admin.deleteTopics(List.of(text(ask, "topic"))).all());
            case "topic_config": {
                ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, text(ask, "topic"));
                Config found = admin.describeConfigs(List.of(resource)).all().get().get(resource);
                return JSON.valueToTree(found.get(text(ask, "name")).value());
            }
            case "delete_records":
                return none(admin.deleteRecords(
                    Map.of(place(ask), RecordsToDelete.beforeOffset(ask.get("before").asLong()))).all());
            case "group_state": {
                String group = text(ask, "group");
                return JSON.valueToTree(admin.describeConsumerGroups(List.of(group)).all().get().get(group)
                    .groupState().toString());
            }
            case "group_offset": {
                OffsetAndMetadata found = admin.listConsumerGroupOffsets(text(ask, "group"))
                    .partitionsToOffsetAndMetadata().get().get(place(ask));
                return JSON.valueToTree(found == null ? null : found.offset());
            }
            case "produce":
                return produce(ask);
            case "read":
                return read(ask);
            case "ends": {
                long low = offset(place(ask), OffsetSpec.earliest()).offset();
                return JSON.valueToTree(List.of(low, offset(place(ask), OffsetSpec.latest()).offset()));
            }
            case "offset_at": {
                long found = offset(place(ask), OffsetSpec.forTimestamp(ask.get("timestamp").asLong())).offset();
                return JSON.valueToTree(found < 0 ? null : found);
            }
            case "join": {
                Consumer<byte[], byte[]> consumer = consumer(Map.of(
                    "group.id", text(ask, "group"), "group.protocol", text(ask, "protocol"),
                    "auto.offset.reset", "earliest", "metadata.max.age.ms", "500"));
                consumer.subscribe(List.of(text(ask, "topic")));
                members.put(ask.get("number").asInt(), consumer);
                return null;
            }
            case "transactional": {
                Producer<byte[], byte[]> producer = producer(Map.of("transactional.id", text(ask, "id")));
                producer.initTransactions();
                transactions.put(ask.get("number").asInt(), producer);
                return null;
            }
            default:
                return ask.has("member") ? member(ask) : transaction(ask);
        }
    }

    JsonNode member(JsonNode ask) {
        Consumer<byte[], byte[]> consumer = members.get(ask.get("member").asInt());
        switch (ask.get("call").asText()) {
            case "poll": {
                ArrayNode found = JSON.createArrayNode();
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200)))
                    found.addArray().add(record.topic()).add(record.partition()).add(row(record));
                return found;
            }
            case "assigned": {
                ArrayNode found = JSON.createArrayNode();
                for (TopicPartition place : consumer.assignment())
                    found.addArray().add(place.topic()).add(place.partition());
                return found;
            }
            case "commit":
                consumer.commitSync(Map.of(
                    place(ask), new OffsetAndMetadata(ask.get("offset").asLong(), text(ask, "metadata"))));
                return null;
            case "committed": {
                OffsetAndMetadata found = consumer.committed(Set.of(place(ask)), PATIENCE).get(place(ask));
                return found == null ? null : JSON.createArrayNode().add(found.offset()).add(found.metadata());
            }
            default: // close
                members.remove(ask.get("member").asInt()).close();
                return null;
        }
    }

    JsonNode transaction(JsonNode ask) throws Exception {
        Producer<byte[], byte[]> producer = transactions.get(ask.get("transaction").asInt());
        switch (ask.get("call").asText()) {
            case "begin":
                producer.beginTransaction();
                return null;
            case "send":
                producer.send(new ProducerRecord<>(
                    text(ask, "topic"), ask.get("partition").asInt(), null, bytes(ask.get("value")))).get();
                return null;
            case "send_offsets":
                producer.sendOffsetsToTransaction(
                    Map.of(place(ask), new OffsetAndMetadata(ask.get("offset").asLong())),
                    new ConsumerGroupMetadata(text(ask, "group")));
                return null;
            case "commit":
                producer.commitTransaction();
                return null;
            case "abort":
                producer.abortTransaction();
                return null;
            default: // close
                transactions.remove(ask.get("transaction").asInt()).close(Duration.ZERO);
                return null;
        }
    }

    JsonNode produce(JsonNode ask) throws Exception {
        try (Producer<byte[], byte[]> producer = producer(Map.of(
            "compression.type", text(ask, "compression"), "linger.ms", "5", "max.request.size", "16777216"))) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (JsonNode record : ask.get("records")) {
                List<Header> headers = new ArrayList<>();
                record.get(2).forEach(header ->
                    headers.add(new RecordHeader(header.get(0).asText(), bytes(header.get(1)))));
                sent.add(producer.send(new ProducerRecord<>(
                    text(ask, "topic"), ask.get("partition").asInt(), record.get(3).asLong(), bytes(record.get(0)),
                    bytes(record.get(1)), headers)));
            }
            ArrayNode offsets = JSON.createArrayNode();
            for (Future<RecordMetadata> one : sent) offsets.add(one.get().offset());
            return offsets;
        }
    }

    JsonNode read(JsonNode ask) throws Exception {
        ArrayNode found = JSON.createArrayNode();
        int count = ask.get("count").asInt();
        try (Consumer<byte[], byte[]> consumer = consumer(Map.of(
            "auto.offset.reset", "none", "isolation.level", text(ask, "isolation")))) {
            TopicPartition place = place(ask);
            consumer.assign(List.of(place));
            consumer.seek(place, ask.get("offset").asLong());
            long end = consumer.endOffsets(List.of(place)).get(place);
            while (found.size() < count && (consumer.position(place) < end || found.isEmpty() && end > 0)) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(300)))
                    if (found.size() < count) found.add(row(record));
                if (consumer.position(place) >= end) break;
            }
        }
        return found;
    }

    ListOffsetsResult.ListOffsetsResultInfo offset(TopicPartition place, OffsetSpec spec) throws Exception {
        return admin.listOffsets(Map.of(place, spec)).partitionResult(place).get();
    }

    Consumer<byte[], byte[]> consumer(Map<String, String> more) {
        Map<String, Object> settings = new HashMap<>(more);
        settings.put("bootstrap.servers", bootstrap);
        settings.put("enable.auto.commit", "false");
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    Producer<byte[], byte[]> producer(Map<String, String> more) {
        Map<String, Object> settings = new HashMap<>(more);
        settings.put("bootstrap.servers", bootstrap);
        return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    static JsonNode none(KafkaFuture<?> future) throws Exception {
        future.get();
        return null;
    }

    static String text(JsonNode ask, String field) {
        return ask.get(field).asText();
    }

    static TopicPartition place(JsonNode ask) {
        return new TopicPartition(text(ask, "topic"), ask.get("partition").asInt());
    }

    static byte[] bytes(JsonNode value) {
        return value.isNull() ? null : Base64.getDecoder().decode(value.asText());
    }

    static ArrayNode row(ConsumerRecord<byte[], byte[]> record) {
        ArrayNode headers = JSON.createArrayNode();
        record.headers().forEach(header -> headers.addArray().add(header.key()).add(header.value()));
        return JSON.createArrayNode().add(record.offset()).add(record.key()).add(record.value()).add(headers)
            .add(record.timestamp());
    }
}
