import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.util.Arrays;
import java.util.Base64;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's command line tools one after the other in one JVM: a line of input is a class and its arguments, parted
 * by tabs; a line of output is its exit code and, in base64, what it printed.
 */
public class ToolRunner {
    static class Ended extends RuntimeException {
        final int code;

        Ended(int code) {
            super(null, null, false, false);
            this.code = code;
        }
    }

    /** How the tool ended, at first: some catch that too, and take it for a failure. */
    static Ended ended;

    public static void main(String[] args) throws Exception {
        PrintStream out = System.out;
        Exit.Procedure end = (code, message) -> {
            if (message != null) System.out.println(message);
            if (ended == null) ended = new Ended(code);
            throw ended;
        };
        Exit.setExitProcedure(end);
        Exit.setHaltProcedure(end);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split("\t");
            ByteArrayOutputStream said = new ByteArrayOutputStream();
            PrintStream both = new PrintStream(said, true);
            System.setOut(both);
            System.setErr(both);
            int code = 0;
            ended = null;
            // Scala's Console keeps the stream it was made with; tools of the Scala side print through it.
            try {
                code = run(words[0], Arrays.copyOfRange(words, 1, words.length), both);
            } finally {
                System.setOut(out);
                out.println(code + "\t" + Base64.getEncoder().encodeToString(said.toByteArray()));
                out.flush();
            }
        }
    }

    private static int run(String name, String[] args, PrintStream both) {
        int[] code = {0};
        scala.Console$.MODULE$.withOut(both, () -> scala.Console$.MODULE$.withErr(both, () -> {
            try {
                Class.forName(name).getMethod("main", String[].class).invoke(null, (Object) args);
            } catch (InvocationTargetException thrown) {
                if (!(thrown.getCause() instanceof Ended)) {
                    thrown.getCause().printStackTrace(both);
                    code[0] = 1;
                }
            } catch (ReflectiveOperationException wrong) {
                wrong.printStackTrace(both);
                code[0] = 99;
            }
            return null;
        }));
        return ended == null ? code[0] : ended.code;
    }
}
