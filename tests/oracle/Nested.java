// Allocates natively on many different stacks of the JVM: through JNI, Unsafe, class loading,
// compilation and reflection, below compiled, interpreted and generated Java code.
import java.io.*;
import java.lang.invoke.*;
import java.lang.reflect.*;
import java.nio.ByteBuffer;
import java.nio.file.*;
import java.util.*;
import java.util.function.*;
import java.util.stream.*;
import java.util.zip.*;

public class Nested implements Comparable<Nested>, Serializable {
    static final Random random = new Random(1);
    static final List<Object> kept = new ArrayList<>();
    static int depth, budget;

    interface Step { void run() throws Throwable; }

    static void keep(Object block) { if (random.nextInt(8) == 0) kept.add(block); }

    static final Step[] leaves = {
        () -> keep(ByteBuffer.allocateDirect(1 + random.nextInt(5000))),
        () -> { Deflater deflater = new Deflater(); deflater.setInput(new byte[100]); deflater.finish(); deflater.deflate(new byte[100]); keep(deflater); },
        () -> keep(new Inflater()),
        () -> { CRC32 sum = new CRC32(); sum.update(ByteBuffer.allocateDirect(50)); },
        () -> keep(new File("/proc/self/task").list()),
        () -> { try (FileInputStream in = new FileInputStream("/proc/self/stat")) { keep(in.readAllBytes()); } },
        () -> keep(Files.readAllLines(Path.of("/proc/self/status")).size()),
        () -> keep(new File("/proc/self").getCanonicalPath()),
        () -> { Thread thread = new Thread(() -> keep(new Deflater())); thread.start(); thread.join(); },
        () -> keep(Proxy.newProxyInstance(new ClassLoader() {}, new Class<?>[] {Runnable.class}, (a, b, c) -> null)),
        () -> keep(Class.forName("java.util.concurrent.Phaser")),
        () -> keep(new Throwable().getStackTrace()),
        () -> keep(("text" + random.nextInt()).intern()),
        () -> keep(InetAddress()),
        () -> keep(new byte[random.nextInt(100000)]),
        () -> { ByteArrayOutputStream out = new ByteArrayOutputStream(); try (GZIPOutputStream zip = new GZIPOutputStream(out)) { zip.write(1); } keep(out); },
        () -> keep(MethodHandles.lookup().findStatic(Nested.class, "nest", MethodType.methodType(void.class))),
    };

    static Object InetAddress() throws IOException { return java.net.InetAddress.getByName("127.0.0.1"); }

    public int compareTo(Nested other) { nest(); return hashCode() - other.hashCode(); }
    private void writeObject(ObjectOutputStream out) { nest(); }
    public String toString() { nest(); return "nested"; }
    static class Loaded { static { nest(); } }
    static class Loader extends ClassLoader {
        protected Class<?> findClass(String name) throws ClassNotFoundException {
            try (InputStream in = Nested.class.getResourceAsStream("Nested$Loaded.class")) {
                byte[] bytes = in.readAllBytes();
                return defineClass("Nested$Loaded", bytes, 0, bytes.length);
            } catch (IOException error) { throw new ClassNotFoundException(name, error); }
        }
        public Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
            return name.equals("Nested$Loaded") ? findClass(name) : super.loadClass(name, resolve);
        }
    }
    static MethodHandle handle;
    static Method method;

    static final Step[] steps = {
        () -> Stream.of(2, 1).map(n -> { nest(); return n; }).sorted().collect(Collectors.toList()),
        () -> Arrays.sort(new Nested[] {new Nested(), new Nested(), new Nested()}),
        () -> method.invoke(null),
        () -> { handle.invokeExact(); },
        () -> new ObjectOutputStream(OutputStream.nullOutputStream()).writeObject(new Nested()),
        () -> String.valueOf(new Nested()),
        () -> String.format("%s %d", new Nested(), 5),
        () -> new TreeMap<>(Map.of(new Nested(), 1)),
        () -> new HashMap<Integer, Integer>().computeIfAbsent(1, n -> { nest(); return n; }),
        () -> Class.forName("Nested$Loaded", true, new Loader()),
        () -> { try { nest(); throw new Exception("text"); } catch (Exception error) { nest(); } finally { nest(); } },
        () -> { synchronized (new Object()) { nest(); } },
        () -> ((Runnable) Proxy.newProxyInstance(Nested.class.getClassLoader(), new Class<?>[] {Runnable.class}, (a, b, c) -> { nest(); return null; })).run(),
        () -> IntStream.range(0, 2).forEach(n -> nest()),
        () -> ((Supplier<Object>) () -> { nest(); return null; }).get(),
    };

    public static void nest() {
        try {
            if (depth <= 0 || --budget <= 0 || random.nextInt(6) == 0) {
                leaves[random.nextInt(leaves.length)].run();
                return;
            }
            depth--;
            steps[random.nextInt(steps.length)].run();
            depth++;
        } catch (Throwable error) {
            throw new RuntimeException(error);
        }
    }

    static void work(int rounds) {
        for (int round = 0; round < rounds; round++) {
            depth = 1 + random.nextInt(8);
            budget = 30;
            nest();
        }
    }

    public static void main(String[] arguments) throws Exception {
        handle = MethodHandles.lookup().findStatic(Nested.class, "nest", MethodType.methodType(void.class));
        method = Nested.class.getDeclaredMethod("nest");
        work(200); // Loads libraries, and compiles the first methods.
        System.out.println("ready " + ProcessHandle.current().pid());
        System.in.read();
        work(1000);
        System.out.println("done");
        while (System.in.read() >= 0) {}
    }
}
