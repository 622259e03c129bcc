import java.io.*;
import java.net.Socket;
import java.security.SecureRandom;
import java.util.*;
import java.util.concurrent.*;

/**
 * A client of spec/preflight.md for one carrier: upgrade, framed or websocket. A read returns -1 at
 * the end. If the stream is truncated, it throws an EOFException. After a protocol error, it throws
 * a Capsules.Malformed. After a reset, it throws the exception of the transport. The client sends
 * no PING while the application is silent, and it does not try another carrier.
 */
public final class Preflight implements AutoCloseable {
    private static final int LIMIT = 60, LINGER = 2; // the limits of M45 and M47, in seconds

    private final Socket socket;
    private final DataInputStream in;
    private final Capsules capsules;
    private final Sender sender;
    private final boolean raw;
    private final Object reading = new Object(); // the lock of the reader
    private final byte[] lastPing = new byte[8]; // the value of the PING after FINAL_DATA
    private final CompletableFuture<Void> settled = new CompletableFuture<>(); // M45
    private IOException failed; // why reads fail
    private boolean ended, ponged; // the peer has sent FINAL_DATA; it has read our FINAL_DATA

    /** A tunnel after its handshake. Tests also use it as a server. */
    Preflight(Socket socket, String carrier, boolean server) throws IOException {
        boolean ws = carrier.equals("websocket");
        raw = carrier.equals("upgrade");
        this.socket = socket;
        in = new DataInputStream(new BufferedInputStream(socket.getInputStream()));
        sender = new Sender(socket.getOutputStream(), ws, !server);
        capsules = new Capsules(this::control,
            ws ? new DataInputStream(new Messages(in, server, this::answer)) : in);
        new SecureRandom().nextBytes(lastPing);
    }

    /** Opens a tunnel over a connected Socket, or an SSLSocket that offers only http/1.1. If tls is
     *  set, the caller must begin TLS inside the tunnel. */
    public Preflight(Socket socket, String host, String target, String carrier, String protocol,
            boolean tls, Map<String, String> fields) throws IOException {
        this(socket, carrier, false);
        try {
            Handshake handshake = new Handshake(carrier, protocol, tls);
            socket.getOutputStream().write(handshake.request(host, target, fields));
            handshake.accept(in);
        } catch (IOException | RuntimeException e) {
            socket.close();
            throw e;
        }
    }

    public int read(byte[] b, int off, int len) throws IOException {
        if (raw) return in.read(b, off, len);
        synchronized (reading) {
            if (ended) return -1;
            if (failed != null) throw failed;
            try {
                int n = capsules.read(b, off, len);
                ended = n < 0;
                if (ended) Tasks.start(this::drain);
                return n;
            } catch (IOException e) {
                fail(e);
                throw failed;
            }
        }
    }

    public void write(byte[] b, int off, int len) throws IOException {
        if (raw) socket.getOutputStream().write(b, off, len);
        else sender.data(b, off, len);
    }

    /** Ends this direction. The other direction stays open. */
    public void shutdownOutput() throws IOException {
        if (raw) socket.shutdownOutput();
        else sender.end(lastPing);
    }

    /** Ends this direction. Waits until the peer has read everything and ended its direction. */
    @Override public void close() throws IOException {
        if (!raw) {
            Tasks.start(this::shutdownOutput);
            Tasks.start(() -> {
                for (byte[] b = new byte[8192]; read(b, 0, b.length) >= 0;);
            });
            Tasks.await(settled, LIMIT);
            finish();
        }
        socket.close();
    }

    /** Reads after FINAL_DATA until the transport ends (M43). */
    private void drain() {
        synchronized (reading) {
            try {
                for (;; capsules.next()) if (ponged) settled.complete(null);
            } catch (IOException e) {
                fail(e);
            }
        }
    }

    private void fail(IOException e) {
        failed = e.getMessage() != null ? e
            : new EOFException("the connection ended before FINAL_DATA: data is missing");
        sender.stop(failed);
        if (e instanceof Capsules.Malformed m) sender.keep(Messages.CLOSE, Messages.code(m.code));
        Tasks.start(this::finish);
    }

    private void control(int kind, byte[] value) {
        if (kind == Capsules.PING)
            answer(Messages.BINARY, Capsules.encode(Capsules.PONG, value, 0, value.length));
        else ponged |= Arrays.equals(value, lastPing);
    }

    private void answer(int opcode, byte[] payload) {
        // At most one thread waits, even if a peer sends many PINGs and does not read.
        if (sender.keep(opcode, payload)) Tasks.start(sender::flush);
    }

    /** Sends a Close, ends this direction, waits shortly for the end of the other, and closes. */
    private synchronized void finish() throws IOException {
        if (socket.isClosed()) return;
        settled.complete(null);
        sender.keep(Messages.CLOSE, Messages.code(1000));
        Tasks.await(Tasks.start(() -> {
            sender.flush();
            socket.shutdownOutput();
            while (in.read() >= 0);
        }), LINGER);
        socket.close();
    }
}
