import java.io.IOException;
import java.util.concurrent.*;

/** Runs each task on a separate daemon thread, which does not keep the program alive. */
final class Tasks {
    interface Task {
        void run() throws IOException;
    }

    private static final ExecutorService POOL = Executors.newCachedThreadPool(task -> {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        return thread;
    });

    static Future<?> start(Task task) {
        return POOL.submit(() -> {
            task.run();
            return null;
        });
    }

    /** Waits until a task has ended, with or without an error, or until the timeout. */
    static void await(Future<?> task, int seconds) {
        try {
            task.get(seconds, TimeUnit.SECONDS);
        } catch (ExecutionException | TimeoutException e) {
            // The reader or the writer has already received the error. After a timeout, nothing
            // is left to do.
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }
}
