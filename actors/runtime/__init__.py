"""How actors live in processes of their own: channels, notebooks, supervision, workers."""
