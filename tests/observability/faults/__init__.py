"""Real faults, by the part that is broken, and the alerts that each must fire."""
