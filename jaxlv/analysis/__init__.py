"""What series are like, what text costs, and what a run has learnt."""
