import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** A JVM that grows in one of three places, or nowhere: `map`, `direct`, `classes`, `steady`. */
public class Grows {
    static final Map<Integer, byte[]> PER_THREAD_DATA = new HashMap<>();
    static final List<ByteBuffer> BUFFERS = new ArrayList<>();
    static final List<Class<?>> CLASSES = new ArrayList<>();
    static volatile byte[] garbage;

    public static void main(String[] args) throws Exception {
        System.out.println("ready " + ProcessHandle.current().pid());
        byte[] code = Grows.class.getResourceAsStream("Grows$Loaded.class").readAllBytes();
        for (int tick = 0; ; tick++) {
            // 2 MiB of garbage in each tick, which a steady program makes, too.
            for (int i = 0; i < 128; i++) {
                garbage = new byte[16384];
            }
            switch (args[0]) {
                case "map" -> PER_THREAD_DATA.put(tick, new byte[200_000]);
                case "direct" -> keep();
                case "classes" -> load(code);
                default -> { }
            }
            Thread.sleep(100);
        }
    }

    static void keep() {
        BUFFERS.add(ByteBuffer.allocateDirect(100_000));
    }

    /** A class loader each, as when an application is deployed again and again. */
    static void load(byte[] code) throws Exception {
        for (int i = 0; i < 20; i++) {
            CLASSES.add(new Again().define(code));
        }
    }

    static class Again extends ClassLoader {
        Class<?> define(byte[] code) {
            Class<?> loaded = defineClass("Grows$Loaded", code, 0, code.length);
            resolveClass(loaded);
            return loaded;
        }
    }

    /** What is loaded. */
    static class Loaded {
        static String text(int number) {
            return "number " + number + " of many";
        }
    }
}
