"""How fast to send, as far as an endpoint lets itself be found out."""
