import ai.djl.inference.Predictor;
import ai.djl.modality.Input;
import ai.djl.modality.Output;
import ai.djl.ndarray.BytesSupplier;
import ai.djl.repository.zoo.Criteria;
import ai.djl.repository.zoo.ZooModel;
import ai.djl.inference.streaming.ChunkedBytesSupplier;
import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Base64;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/**
 * Loads a model directory with DJL's Python engine and answers lines of JSON on standard input.
 *
 * <p>A request: {"id", "properties": {name: text}, "body": text, "leave_after"?: chunks after which it stops reading}.
 * Its answers, each with "id": {"event": "head", "code", "message", "properties"}, {"event": "chunk", "data": base64},
 * then {"event": "end"} or {"event": "failed", "error"}. First of all comes {"event": "ready"}.
 */
public final class Drive {
    private static final Gson GSON = new Gson();
    private static final long CHUNK_S = 120;

    private Drive() {}

    /**
     * @param args the model directory, how many threads ask at once, then options of the model as name=value
     */
    public static void main(String[] args) {
        try {
            serve(args);
            System.exit(0);
        } catch (Exception e) {
            e.printStackTrace();
            System.exit(1); // DJL's threads would keep a failed load waiting
        }
    }

    private static void serve(String[] args) throws Exception {
        Criteria.Builder<Input, Output> criteria =
                Criteria.builder()
                        .setTypes(Input.class, Output.class)
                        .optModelPath(Path.of(args[0]))
                        .optEngine("Python");
        for (int i = 2; i < args.length; i++) {
            int at = args[i].indexOf('=');
            criteria.optOption(args[i].substring(0, at), args[i].substring(at + 1));
        }
        try (ZooModel<Input, Output> model = criteria.build().loadModel();
                Predictor<Input, Output> predictor = model.newPredictor()) {
            say(Map.of("event", "ready"));
            ExecutorService threads = Executors.newFixedThreadPool(Integer.parseInt(args[1]));
            BufferedReader lines =
                    new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                JsonObject request = GSON.fromJson(line, JsonObject.class);
                threads.submit(() -> answer(predictor, request));
            }
            threads.shutdown();
            threads.awaitTermination(CHUNK_S, TimeUnit.SECONDS);
        }
    }

    private static void answer(Predictor<Input, Output> predictor, JsonObject request) {
        String id = request.get("id").getAsString();
        try {
            Input input = new Input();
            request.getAsJsonObject("properties")
                    .entrySet()
                    .forEach(e -> input.addProperty(e.getKey(), e.getValue().getAsString()));
            input.add("data", request.get("body").getAsString().getBytes(StandardCharsets.UTF_8));
            Output output = predictor.predict(input);
            int most = request.has("leave_after") ? request.get("leave_after").getAsInt() : Integer.MAX_VALUE;
            BytesSupplier data = output.getContent().isEmpty() ? null : output.getData();
            byte[] first = null;
            if (data instanceof ChunkedBytesSupplier) {
                first = ((ChunkedBytesSupplier) data).nextChunk(CHUNK_S, TimeUnit.SECONDS);
            } else if (data != null) {
                first = data.getAsBytes();
            }
            // as DJL Serving does: the head is read after the first chunk has come, which may have set it
            say(
                    Map.of(
                            "id", id,
                            "event", "head",
                            "code", output.getCode(),
                            "message", String.valueOf(output.getMessage()),
                            "properties", output.getProperties()));
            if (first != null) {
                chunk(id, first);
            }
            if (data instanceof ChunkedBytesSupplier) {
                ChunkedBytesSupplier chunks = (ChunkedBytesSupplier) data;
                for (int read = 1; read < most && chunks.hasNext(); read++) {
                    chunk(id, chunks.nextChunk(CHUNK_S, TimeUnit.SECONDS));
                }
            }
            say(Map.of("id", id, "event", "end"));
        } catch (Exception | LinkageError e) {
            say(Map.of("id", id, "event", "failed", "error", e.toString()));
        }
    }

    private static void chunk(String id, byte[] data) {
        say(Map.of("id", id, "event", "chunk", "data", Base64.getEncoder().encodeToString(data)));
    }

    private static synchronized void say(Map<String, ?> event) {
        System.out.println(GSON.toJson(event));
        System.out.flush();
    }
}
