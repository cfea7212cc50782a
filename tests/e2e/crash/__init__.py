"""A service among proxies that write logs and senders that post, and what happens to it: killed, full, late, flooded."""
