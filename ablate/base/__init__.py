"""What everything uses: errors, random numbers, the machine, progress bars, signals."""
