"""`ureca doctor` and `ureca sources`: is this machine ready, and what can it see?"""
