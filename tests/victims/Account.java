import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;

/** Memory of each kind that an account of a JVM tells apart. The protocol is that of the other victims. */
public class Account {
    static final int ARRAYS = 40_000;
    static final int ARRAY_BYTES = 1000;
    static final int BUFFERS = 8;
    static final int BUFFER_BYTES = 1 << 20;
    static final int THREADS = 10;
    static final List<Object> KEPT = new ArrayList<>();

    public static void main(String[] args) throws Exception {
        System.out.println("ready " + ProcessHandle.current().pid());
        System.in.read();
        for (int i = 0; i < ARRAYS; i++) {
            KEPT.add(new byte[ARRAY_BYTES]);
        }
        for (int i = 0; i < BUFFERS; i++) {
            KEPT.add(ByteBuffer.allocateDirect(BUFFER_BYTES));
        }
        CountDownLatch started = new CountDownLatch(THREADS);
        for (int i = 0; i < THREADS; i++) {
            Thread thread = new Thread(() -> {
                started.countDown();
                try {
                    Thread.sleep(1_000_000);
                } catch (InterruptedException end) {
                    // It ends.
                }
            });
            thread.setDaemon(true);
            thread.start();
        }
        started.await();
        System.out.printf("{\"kept_bytes\":%d}%n", ARRAYS * ARRAY_BYTES);
        System.in.read();
    }
}
