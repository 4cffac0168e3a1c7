"""Pack parameters fitted to recordings. Written by `python -m model.fleet.fit --write-parameters`; do not edit.

Source: 40 BMW i3 trips, TU Munich, 'Battery and Heating Data in Real Driving Cycles' (IEEE DataPort, CC BY 4.0);
fitted on the 27 trips not held out. docs/simulator.md says how well.
"""

RESISTANCE_OHM_KWH = 1.719  # instantaneous resistance times nominal energy, 25 degC, half charge
POLARISATION_OHM_KWH = 1.956
POLARISATION_S = 110.3
RESISTANCE_ACTIVATION_K = 2843
PACK_J_PER_K_KWH = 9468  # heat capacity per nominal kWh
PACK_AIR_W_PER_K = 12.59
