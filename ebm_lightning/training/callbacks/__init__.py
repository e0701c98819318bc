"""Lightning callbacks: chains, random streams, checkpoints, pictures and the divergence guard."""
