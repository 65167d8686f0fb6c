#!/usr/bin/env bash
# What only a GPU can answer, with one command and in ten minutes at most:
#
#   benchmarks/gpu.sh        on a machine with an NVIDIA GPU; writes benchmarks/loss_gpu.md (what
#                            the loss costs) and benchmarks/gpu.md (everything else)
#   benchmarks/gpu.sh cpu    tries the script out, small and in a temporary folder
#
# Needs: pip install -e ".[test]". The steps go on after one that fails or takes too long; the exit
# code is then 1.
set -uo pipefail
cd "$(dirname "$0")/.."
device=${1:-cuda}
case $device in
    cuda) results=benchmarks shape=96,128,128 length=_2epochs_50iters small=() patience=1 ;;
    cpu) results=$(mktemp -d) shape=24,32,32 length=_2epochs_3iters
        small=(--rounds 2 --classes 2 4 --size 32) patience=20 ;;
    *) echo "$0: expected cuda, cpu or nothing, got $device" >&2; exit 2 ;;
esac
if [ "$device" = cuda ] && ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "$0: expected an NVIDIA GPU, found none; try the script out with: $0 cpu" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export nnUNet_raw=$work/raw nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
table=$results/gpu.md
failed=0

# step LIMIT NAME COMMAND...: a row with the seconds that the command takes.
step() {
    local limit=$1 name=$2 begin=$EPOCHREALTIME outcome=ok
    shift 2
    echo "== $name: $*"
    timeout $((patience * limit)) "$@" || { outcome="failed, exit code $?"; failed=1; }
    awk -v name="$name" -v a="$begin" -v b="$EPOCHREALTIME" -v outcome="$outcome" \
        'BEGIN { printf "| %s | %.1f | %s |\n", name, b - a, outcome }' >> "$table"
}

# The time of the last epoch that a trainer logged: compiling takes part of the first one.
last_epoch() {
    grep -hoE 'Epoch time: [0-9.]+ s' "$nnUNet_results"/*/"$1"__*/fold_0/training_log*.txt | tail -n 1
}

{
    echo "# On a GPU"
    echo
    echo "\`benchmarks/gpu.sh${1:+ $1}\`, on a synthetic data set of scans of $shape voxels."
    echo
    echo "| step | s | |"
    echo "| --- | --- | --- |"
} > "$table"

step 150 "pytest -m gpu" pytest -q -m gpu
step 200 "loss.py" python benchmarks/loss.py -device "$device" -o "$results/loss_gpu.md" "${small[@]}"

python - "$nnUNet_raw/Dataset001_Synthetic" "$shape" <<'PYTHON'
import sys
from pathlib import Path
from nnunet_meep.datasets.synthetic import make_dataset
folder = Path(sys.argv[1])
folder.parent.mkdir()
make_dataset(folder, n_training=10, n_test=2, shape=tuple(map(int, sys.argv[2].split(","))))
PYTHON
step 30 "nnUNetv2_plan_and_preprocess" nnUNetv2_plan_and_preprocess -d 1 -c 3d_fullres -np 4
own=nnUNetTrainerDiceCE$length meep=nnUNetTrainerMEEP_KL$length
for trainer in "$own" "$meep"; do
    step 75 "nnUNetv2_train, $trainer" \
        nnUNetv2_train 1 3d_fullres 0 -tr "$trainer" --npz -device "$device"
done
model=$nnUNet_results/Dataset001_Synthetic/${own}__nnUNetPlans__3d_fullres
step 10 "meep-calib-fit temperature" \
    meep-calib-fit temperature "$model/fold_0/validation" -o "$work/calibrator.json"
predict=(-i "$nnUNet_raw/Dataset001_Synthetic/imagesTs" -d 1 -c 3d_fullres -f 0 -tr "$own"
    -device "$device")
step 30 "nnUNetv2_predict" nnUNetv2_predict "${predict[@]}" -o "$work/plain" --save_probabilities
step 30 "meep-predict" meep-predict "${predict[@]}" -o "$work/calibrated" \
    --calibrator "$work/calibrator.json"

{
    echo
    for trainer in "$own" "$meep"; do
        echo "$trainer: $(last_epoch "$trainer" || echo 'no epoch') (the last one)."
        echo
    done
    python -c '
import platform, torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
print(f"{name or platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}.")'
} >> "$table"
cat "$table"
exit $failed
