"""How fast cloudmanager is, against yardsticks of the same run. `make bench` measures; docs/performance.md shows it."""
