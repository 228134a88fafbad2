"""The hub: registers clusters, moves releases through waves, collects what agents report. Holds no spoke credential."""
