#!/usr/bin/env bash
# The ablation table: one short training run per change, each on the same budget, all scored on the same held-out
# pictures. Runs that are finished are kept, so it can be interrupted and started again.
#   tools/ablation.sh DATA_ROOT [REGIONS]        writes runs/ablation/<name>/ and runs/ablation/table/compare.md
set -euo pipefail
data=${1:?the data folder, e.g. ../shared/data}
limit=${2:-100000}
out=runs/ablation
grids="model.regions.roi=false model.regions.context=false model.regions.surroundings=false"
plain="model.regions.class_prior=false model.regions.colour=false"

run() {
    local name=$1 config=$2
    shift 2
    local settings=()
    for setting in "$@"; do settings+=(--set "$setting"); done
    [ -d "$out/$name/checkpoint" ] || ureca train "configs/train/$config.yaml" --out "$out/$name" "${settings[@]}"
    score "$name" true
}

score() {
    local name=$1 masks=$2
    [ -f "$out/eval-$name-$masks/metrics.json" ] || ureca eval "$out/$name/checkpoint" --data "$data" --style short \
        --masks "$masks" --limit "$limit" --no-report --no-meteor -o "$out/eval-$name-$masks"
}

run mask-tokens ablation model.regions.pooled_features=false $grids
run pooled ablation $plain $grids
run pooled-colour-classes ablation $grids
run grid ablation model.regions.context=false model.regions.surroundings=false
run full ablation
run full-tail ablation trunk=tail trunk_learning_rate=2e-4
run full-bag ablation bag_weight=0.5
run full-margin ablation margin_weight=1.0 margin=0.5
run full-adjusted ablation prior_weight=0.35
run full-no-noise ablation-no-noise
score full noisy
score full-no-noise noisy
names="mask-tokens pooled pooled-colour-classes grid full"
names+=" full-tail full-bag full-margin full-adjusted full-no-noise"
folders=()
for name in $names; do folders+=("$out/eval-$name-true"); done
ureca eval --compare "${folders[@]}" "$out"/eval-{full,full-no-noise}-noisy -o "$out/table"
