import static java.nio.charset.StandardCharsets.*;

import java.io.*;
import java.nio.ByteBuffer;
import java.security.*;
import java.util.*;
import java.util.function.BiConsumer;

/** The payloads of all binary messages, as one stream: section 6 of spec/preflight.md. */
final class Messages extends InputStream {
    static final int BINARY = 2, CLOSE = 8, PING = 9, PONG = 10; // opcodes
    private static final SecureRandom RANDOM = new SecureRandom();

    private final DataInputStream in;
    private final boolean server; // the reader is the server
    private final BiConsumer<Integer, byte[]> answer; // takes an opcode and a payload to send
    private final byte[] mask = new byte[4];
    private boolean inMessage;
    private long rest; // the bytes left in the frame
    private int at; // the position in the mask

    Messages(DataInputStream in, boolean server, BiConsumer<Integer, byte[]> answer) {
        this.in = in;
        this.server = server;
        this.answer = answer;
    }

    /** Returns the Sec-WebSocket-Accept of a key. */
    static String accept(String key) {
        try {
            byte[] b = (key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").getBytes(ISO_8859_1);
            return Base64.getEncoder().encodeToString(MessageDigest.getInstance("SHA-1").digest(b));
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e); // every Java platform has SHA-1
        }
    }

    /** Returns a frame to send. */
    static byte[] frame(int opcode, byte[] payload, boolean masked) {
        int length = payload.length, m = masked ? 128 : 0;
        ByteBuffer f = ByteBuffer.allocate(length + 14).put((byte) (128 | opcode));
        if (length < 126) f.put((byte) (m | length));
        else if (length < 1 << 16) f.put((byte) (m | 126)).putShort((short) length);
        else f.put((byte) (m | 127)).putLong(length);
        byte[] key = new byte[4]; // a key of zeros does not change the payload
        if (masked) {
            RANDOM.nextBytes(key);
            f.put(key);
        }
        for (int i = 0; i < length; i++) f.put((byte) (payload[i] ^ key[i & 3]));
        return Arrays.copyOf(f.array(), f.position());
    }

    /** Returns the body of a Close frame. */
    static byte[] code(int n) {
        return new byte[] {(byte) (n >> 8), (byte) n};
    }

    @Override public int read() throws IOException {
        byte[] b = new byte[1];
        return read(b, 0, 1) < 0 ? -1 : b[0] & 255;
    }

    @Override public int read(byte[] b, int off, int len) throws IOException {
        while (rest == 0) header();
        int n = in.read(b, off, (int) Math.min(len, rest));
        for (int i = off; i < off + n; i++) b[i] ^= mask[at++ & 3];
        rest -= Math.max(n, 0);
        return n;
    }

    /** Reads the header of a frame, and all of it if it is a control frame. */
    private void header() throws IOException {
        int first = in.readUnsignedByte(), second = in.readUnsignedByte();
        int opcode = first & 15, length = second & 127;
        boolean fin = first > 127, control = opcode >= CLOSE;
        if (opcode == 1) throw new Capsules.Malformed(1003, "a text message");
        if ((first & 0x70) != 0 || opcode > PONG || opcode > BINARY && !control)
            throw new Capsules.Malformed(1002, "a frame with a reserved bit or opcode");
        if (second > 127 != server) throw new Capsules.Malformed(1002, "a wrong mask bit");
        if (control && (!fin || length > 125))
            throw new Capsules.Malformed(1002, "a wrong control frame");
        if (!control && inMessage != (opcode == 0))
            throw new Capsules.Malformed(1002, "a wrong fragment");
        rest = length == 126 ? in.readUnsignedShort() : length == 127 ? in.readLong() : length;
        if (length == 126 && rest < 126 || length == 127 && rest < 1 << 16)
            throw new Capsules.Malformed(1002, "a length that is not in its shortest form");
        if (server) in.readFully(mask);
        at = 0;
        if (control) {
            byte[] payload = new byte[length];
            in.readFully(payload);
            for (int i = 0; i < length; i++) payload[i] ^= mask[i & 3];
            rest = 0;
            if (opcode == PING) answer.accept(PONG, payload);
            if (opcode == CLOSE) close(payload);
        } else {
            inMessage = !fin;
        }
    }

    private void close(byte[] body) throws IOException {
        byte[] code = Arrays.copyOf(body, Math.min(2, body.length));
        byte[] reason = Arrays.copyOfRange(body, code.length, body.length);
        int n = body.length == 0 ? 1000 : body.length == 1 ? 0 : ByteBuffer.wrap(body).getChar();
        if (n < 1000 || n > 1003 && n < 1007 || n > 1014 && n < 3000 || n > 4999
                || !Arrays.equals(new String(reason, UTF_8).getBytes(UTF_8), reason))
            throw new Capsules.Malformed(1002, "a malformed Close");
        answer.accept(CLOSE, code);
        throw new EOFException("the peer sent a Close before FINAL_DATA: data is missing");
    }
}
