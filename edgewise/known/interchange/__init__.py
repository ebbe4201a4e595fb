"""Models trained to a known circuit by strict interchange interventions."""
