"""One pass over a prompt table: plan, attempts, workers, the thread that runs them."""
