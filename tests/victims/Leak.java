import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;

/** Memory outside of the Java heap, kept by one method. The protocol is that of the other victims. */
public class Leak {
    static final int BYTES = 1000;
    static final int COUNT = 20_000;
    static final List<ByteBuffer> KEPT = new ArrayList<>();

    public static void main(String[] args) throws Exception {
        System.out.println("ready " + ProcessHandle.current().pid());
        System.in.read();
        for (int i = 0; i < COUNT; i++) {
            keep();
        }
        System.out.printf("{\"kept_bytes\":%d}%n", BYTES * COUNT);
        System.in.read();
    }

    static void keep() {
        KEPT.add(ByteBuffer.allocateDirect(BYTES));
    }
}
