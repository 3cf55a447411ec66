"""The zoo: cards, index, loading, publishing."""
