"""Synthetic chest radiographs with all fourteen findings of ChestX-ray14, laid out like it. Nothing here imports torch."""

from chestmap.data.phantom.draw import Case, Drawing, draw
from chestmap.data.phantom.population import Population, make_population
from chestmap.data.phantom.settings import PhantomSettings
from chestmap.data.phantom.write import write_phantom

__all__ = ["Case", "Drawing", "PhantomSettings", "Population", "draw", "make_population", "write_phantom"]
