"""Texts about parts and wholes, as MRES-32M has them, from regions that know their parents."""
