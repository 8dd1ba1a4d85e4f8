"""The worlds by name: the built-in ones, and those of forks."""

from pit_jax.data.worlds.matches import MATCHES
from pit_jax.data.worlds.notes import NOTES
from pit_jax.data.worlds.orders import ORDERS
from pit_jax.data.worlds.plans import PLANS
from pit_jax.data.worlds.world import World
from pit_jax.table import Table

WORLDS: Table[World] = Table("world", NOTES, PLANS, ORDERS, MATCHES)
