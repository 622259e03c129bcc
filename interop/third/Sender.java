import java.io.*;
import java.util.*;
import java.util.concurrent.ConcurrentHashMap;

/** Sends the capsules of one direction: all that is written passes here, whole, one at a time. */
final class Sender {
    private static final int LONGEST = 32768; // value of a capsule that is sent
    private static final int[] ORDER = {Messages.BINARY, Messages.PONG, Messages.CLOSE};

    private final OutputStream out;
    private final boolean ws, masked;
    private final Map<Integer, byte[]> answers = new ConcurrentHashMap<>(); // the newest, by opcode
    private volatile IOException broken; // why the application can write no more
    private boolean closed; // a Close was sent

    Sender(OutputStream out, boolean ws, boolean masked) {
        this.out = out;
        this.ws = ws;
        this.masked = masked;
    }

    /** Keeps the newest answer, and the first Close, for what is sent next. It never blocks (M39).
     *  It returns false if one was kept already, so that a flush is on its way. */
    boolean keep(int opcode, byte[] payload) {
        return (opcode == Messages.CLOSE ? answers.putIfAbsent(opcode, payload)
            : answers.put(opcode, payload)) == null;
    }

    /** Sends the answers, the Close behind all others. */
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

    /** Ends the direction, and sends the PING whose PONG says that the peer has read everything. */
    synchronized void end(byte[] ping) throws IOException {
        send(Capsules.FINAL_DATA, ping, 0, 0);
        frame(Messages.BINARY, Capsules.encode(Capsules.PING, ping, 0, ping.length));
        stop(new IOException("this side has ended its direction"));
    }

    /** Writes fail from now on; answers are still sent. */
    void stop(IOException cause) {
        if (broken == null) broken = cause;
    }

    private synchronized void send(int kind, byte[] b, int off, int len) throws IOException {
        if (broken != null)
            throw new IOException("the tunnel takes no more bytes: " + broken.getMessage(), broken);
        try {
            flush();
            frame(Messages.BINARY, Capsules.encode(kind, b, off, len));
        } catch (IOException e) {
            stop(e); // the capsule may be incomplete
            throw e;
        }
    }
}
