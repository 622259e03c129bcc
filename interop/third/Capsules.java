import java.io.*;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.function.BiConsumer;

/** Reads the capsules of one direction: section 5 of spec/preflight.md. */
final class Capsules {
    static final int DATA = 0, FINAL_DATA = 1, PING = 4, PONG = 5; // the last byte of the type
    private static final int TYPE = 0x2d70f100, FIRST = 0xad70f1, LONGEST_UNKNOWN = 65536;

    private final DataInputStream in;
    private final BiConsumer<Integer, byte[]> control; // takes a PING or a PONG, and its value
    private boolean begun, last;
    private long left; // the bytes left in the value of DATA or FINAL_DATA

    Capsules(BiConsumer<Integer, byte[]> control, DataInputStream in) {
        this.in = in;
        this.control = control;
    }

    /** Returns a capsule to send, of at most 1 GiB. */
    static byte[] encode(int kind, byte[] b, int off, int len) {
        ByteBuffer c = ByteBuffer.allocate(len + 8).putInt(FIRST << 8 | kind);
        if (len < 1 << 6) c.put((byte) len);
        else if (len < 1 << 14) c.putShort((short) (1 << 14 | len));
        else c.putInt(1 << 31 | len);
        c.put(b, off, len);
        return Arrays.copyOf(c.array(), c.position());
    }

    /** Reads the bytes that have arrived. It returns -1 at the end of FINAL_DATA. */
    int read(byte[] b, int off, int len) throws IOException {
        while (left == 0 && !last) next();
        if (left == 0) return -1;
        int n = in.read(b, off, (int) Math.min(len, left));
        if (n < 0) throw new EOFException();
        left -= n;
        return n;
    }

    /** Reads the header of a capsule, and its value if it is not for the application. */
    void next() throws IOException {
        long type = integer(true);
        int kind = type >> 3 == TYPE >> 3 ? (int) type & 7 : -1;
        boolean data = kind == DATA || kind == FINAL_DATA, ping = kind == PING || kind == PONG;
        if (!begun && !data && !ping) throw new Malformed(1002, "another first capsule");
        begun = true;
        if (data && last) throw new Malformed(1002, "data after FINAL_DATA");
        long length = integer(false);
        if (ping && length != 8 || !data && length > LONGEST_UNKNOWN)
            throw new Malformed(1002, "a capsule with a wrong length");
        if (data) {
            last = kind == FINAL_DATA;
            left = length;
        } else if (ping) {
            byte[] value = new byte[8];
            in.readFully(value);
            control.accept(kind, value);
        } else {
            in.skipNBytes(length);
        }
    }

    /** Reads a variable-length integer: a type, which must have its shortest form, or a length. */
    private long integer(boolean type) throws IOException {
        long value = 0;
        int size = 1;
        for (int i = 0; i < size; i++) {
            int b = in.readUnsignedByte();
            if (i == 0) size = 1 << (b >> 6);
            if (type && !begun && i < 3 && b != (FIRST >> 16 - 8 * i & 255))
                throw new Malformed(1002, "bytes that are not a capsule");
            value = value << 8 | b;
        }
        value &= (1L << 8 * size - 2) - 1;
        if (type && size > 1 && value >>> 4 * size - 2 == 0)
            throw new Malformed(1002, "a type that is not in its shortest form");
        return value;
    }

    /** A protocol error, with the code for the Close frame. */
    static final class Malformed extends IOException {
        final int code;

        Malformed(int code, String what) {
            super("the peer broke the protocol: it sent " + what);
            this.code = code;
        }
    }
}
