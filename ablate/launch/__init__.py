"""Many runs: the queue, leases, the local launcher, Ray and SLURM."""
