"""What others would use instead: run beside ours, on the same input, in the same command."""
