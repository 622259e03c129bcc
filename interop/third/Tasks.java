import java.io.IOException;
import java.util.concurrent.*;

/** Runs tasks on threads of their own. They do not keep the program alive. */
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

    /** Waits until a task has ended, also with an error, or its time is over. */
    static void await(Future<?> task, int seconds) {
        try {
            task.get(seconds, TimeUnit.SECONDS);
        } catch (ExecutionException | TimeoutException e) {
            // Whoever reads or writes has seen the error; and nothing waits longer.
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }
}
