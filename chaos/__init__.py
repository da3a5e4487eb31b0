"""Real processes, a real broker, real kills: the job must come out as if nothing had happened."""
