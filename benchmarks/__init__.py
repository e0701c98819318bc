"""Our code through its public path beside what a user would pick instead, interleaved in one run."""
