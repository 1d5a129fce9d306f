"""What every other folder uses: errors, random numbers, the machine, progress bars, signals."""
