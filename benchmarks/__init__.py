"""Speed of eft_fast beside its peers; see results/README.md."""
