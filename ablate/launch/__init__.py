"""Many runs: the queue, leases, the local launcher and Ray."""
