"""The chapter's network, its gradient check and its learning-rate studies."""
