"""Webhooks on their way: who is told, and the dispatcher that tells them."""
