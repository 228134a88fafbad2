"""The program in each cluster: pulls, verifies, renders, unseals, gates, applies, heals, reports. Dials out only."""
