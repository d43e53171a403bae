"""Sweeps: a grid of settings with seeds, one run directory each, and their results side by side.

<out>/<arm>_<setting>-<value>_seed-<n>/   one run directory each
<out>/shared/                             what was measured of the dense model, once for all runs
<out>/results.json                        a row per run (and per evaluated round), and what made them
<out>/results.md, results.html            the same as a table to paste, and as a page with the plots
<out>/plots/<n>-<kind>.svg, .png          the plots
"""
