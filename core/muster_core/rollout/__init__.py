"""How a release moves through waves of clusters that may be away. Pure: events and time in, events out."""
