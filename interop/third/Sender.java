import java.io.*;
import java.util.*;
import java.util.concurrent.ConcurrentHashMap;

/** Sends the capsules and frames of one direction, one at a time and each as a whole. */
final class Sender {
    private static final int LONGEST = 32768; // the longest value of a capsule that is sent
    private static final int[] ORDER = {Messages.BINARY, Messages.PONG, Messages.CLOSE};

    private final OutputStream out;
    private final boolean ws, masked;
    private final Map<Integer, byte[]> answers = new ConcurrentHashMap<>(); // the newest, by opcode
    private volatile IOException broken; // why the application can no longer write
    private boolean closed; // a Close was sent

    Sender(OutputStream out, boolean ws, boolean masked) {
        this.out = out;
        this.ws = ws;
        this.masked = masked;
    }

    /** Keeps the newest answer, and the first Close, for the next flush. It never blocks (M39). It
     *  returns false if an answer was already kept, because its flush is still to come. */
    boolean keep(int opcode, byte[] payload) {
        return (opcode == Messages.CLOSE ? answers.putIfAbsent(opcode, payload)
            : answers.put(opcode, payload)) == null;
    }

    /** Sends the answers. A Close comes last. */
    synchronized void flush() throws IOException {
        for (int opcode : ORDER) {
            byte[] payload = answers.remove(opcode);
            if (payload != null) frame(opcode, payload);
        }
    }

    private void frame(int opcode, byte[] payload) throws IOException {
        if (closed || !ws && opcode != Messages.BINARY) return;
        closed = opcode == Messages.CLOSE;
        out.write(ws ? Messages.frame(opcode, payload, masked) : payload);
    }

    void data(byte[] b, int off, int len) throws IOException {
        for (int end = off + len; off < end; off += LONGEST)
            send(Capsules.DATA, b, off, Math.min(end - off, LONGEST));
    }

    /** Ends the direction, and sends a PING. Its PONG shows that the peer has read everything. */
    synchronized void end(byte[] ping) throws IOException {
        send(Capsules.FINAL_DATA, ping, 0, 0);
        frame(Messages.BINARY, Capsules.encode(Capsules.PING, ping, 0, ping.length));
        stop(new IOException("this side has ended its direction"));
    }

    /** Makes all further writes of the application fail. Answers are still sent. */
    void stop(IOException cause) {
        if (broken == null) broken = cause;
    }

    private synchronized void send(int kind, byte[] b, int off, int len) throws IOException {
        if (broken != null)
            throw new IOException("the tunnel accepts no bytes: " + broken.getMessage(), broken);
        try {
            flush();
            frame(Messages.BINARY, Capsules.encode(kind, b, off, len));
        } catch (IOException e) {
            stop(e); // the capsule may be incomplete
            throw e;
        }
    }
}
