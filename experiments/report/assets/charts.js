// The live figures: the specs of the build, drawn by Vega without eval.
"use strict";
