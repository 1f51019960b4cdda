# How the shipped weights and the README's numbers are made. `make train-all` takes a few hours on one CPU core.
# Nothing shipped is touched: weights land in $(RUNS), and are compared with the shipped ones by hand (docs/weights.md).

BIN ?= .venv/bin
DATA ?= data
RUNS ?= runs
# Never the development seeds (1000 and above) that presets were tuned on; never training seeds either: trials and
# logged episodes have seeds in disjoint ranges.
SEED ?= 0
EPISODES ?= 100
TASKS := reacher point_mass two_room
VARIED := $(TASKS:%=$(DATA)/varied_%)
RESULTS := docs/results

export OMP_NUM_THREADS ?= 1

.PHONY: data encoder train-all results benchmarks table test lint
.DELETE_ON_ERROR:

data: $(DATA)/reacher/manifest.json $(DATA)/renderer_reacher/manifest.json $(VARIED:%=%/manifest.json)

$(DATA)/reacher/manifest.json:
	$(BIN)/wm-collect --env reacher --episodes 1000 --seed 100 --out $(@D)

$(DATA)/renderer_reacher/manifest.json:
	$(BIN)/wm-collect --env reacher --episodes 240 --seed 300 --varied renderer --out $(@D)

$(DATA)/varied_reacher/manifest.json:
	$(BIN)/wm-collect --env reacher --episodes 600 --seed 200 --varied --out $(@D)

$(DATA)/varied_point_mass/manifest.json:
	$(BIN)/wm-collect --env point_mass --episodes 500 --steps 60 --seed 200 --varied --out $(@D)

$(DATA)/varied_two_room/manifest.json:
	$(BIN)/wm-collect --env two_room --episodes 700 --seed 200 --varied --out $(@D)

# The shipped encoder has learned from masks alone, without what wm-pretrain does besides by default.
MASKS_ONLY := encoder.whole_after=0 num_steps=1600 batch_size=32 weight_decay=0.04 feature_layers=[2] precision=float32 \
  dynamics.weight=0 dynamics.inverse_weight=0 looks.augment_rate=0 looks.rising=0 looks.teacher_sees_plain=false

encoder: $(RUNS)/encoder/model.safetensors

$(RUNS)/encoder/model.safetensors: $(VARIED:%=%/manifest.json)
	$(BIN)/wm-pretrain --data $(^D) --out $(@D) $(MASKS_ONLY)

train-all: $(TASKS:%=$(RUNS)/%/model.safetensors)

$(RUNS)/reacher/model.safetensors: $(DATA)/reacher/manifest.json $(DATA)/varied_reacher/manifest.json \
  $(DATA)/renderer_reacher/manifest.json
$(RUNS)/point_mass/model.safetensors: $(DATA)/varied_point_mass/manifest.json
$(RUNS)/two_room/model.safetensors: $(DATA)/varied_two_room/manifest.json
$(RUNS)/two_room/model.safetensors: OPTIONS = distance.num_steps=15000
$(TASKS:%=$(RUNS)/%/model.safetensors): $(RUNS)/encoder/model.safetensors
	$(BIN)/wm-train --data $(filter $(DATA)/%,$(^D)) --encoder $(RUNS)/encoder --out $(@D) $(OPTIONS)

# The shipped weights, measured: `make -j2 results`, or a piece of it (`make results-reacher`). Pieces that run side by
# side lengthen each other's planning times, and nothing else. What stopped half-way leaves the old numbers.
ROBUST_TASKS := reacher
PLANNERS := icem mppi ps gradient
POLICIES := planner,physics,random,hold
results-reacher: POLICIES := planner,physics,rl,random,hold
PIECES := $(TASKS:%=results-%) $(PLANNERS:%=results-planner-%) $(ROBUST_TASKS:%=results-robust-%) results-goal-look
EVAL = mkdir -p $(RESULTS) && $(BIN)/wm-eval --seed $(SEED) --out $(RUNS)/$@ --overwrite --quiet --json
KEEP = > $(RUNS)/$@.json && mv $(RUNS)/$@.json $(RESULTS)
.PHONY: $(PIECES)

results: $(PIECES)
	$(BIN)/python benchmarks/plan_latency.py --json > $(RUNS)/$@.json && mv $(RUNS)/$@.json $(RESULTS)/plan_latency.json
	$(MAKE) table

$(RUNS):
	mkdir -p $@

$(PIECES): | $(RUNS)

$(TASKS:%=results-%): results-%:
	$(EVAL) --env $* --protocol near,far --policy $(POLICIES) --episodes $(EPISODES) $(KEEP)/$*.json

$(PLANNERS:%=results-planner-%): results-planner-%:
	$(EVAL) --env reacher --protocol near,far --policy planner --planner $* --episodes $(EPISODES) \
	  $(KEEP)/reacher_planner_$*.json

$(ROBUST_TASKS:%=results-robust-%): results-robust-%:
	$(EVAL) --env $* --protocol robust --policy planner --episodes 50 $(KEEP)/robust_$*.json

results-goal-look:
	$(EVAL) --env reacher --protocol far --policy planner --episodes 20 --goal-look default --goal-size 480 \
	  $(KEEP)/reacher_goal_look.json

# What docs/benchmarks.md states; on a machine that does nothing else. Peers come with the extra `bench`.
benchmarks:
	mkdir -p $(RESULTS)/benchmarks
	$(BIN)/python benchmarks/realtime.py --episodes 30 --json $(RESULTS)/benchmarks/realtime.json
	$(BIN)/python benchmarks/planners.py --seeds 20 --json $(RESULTS)/benchmarks/planners.json
	$(BIN)/python benchmarks/collect.py --json > $(RESULTS)/benchmarks/collect.json
	$(BIN)/python benchmarks/loading.py --json > $(RESULTS)/benchmarks/loading.json
	$(BIN)/python benchmarks/data_memory.py --json > $(RESULTS)/benchmarks/data_memory.json

table:
	$(BIN)/python benchmarks/results_table.py --write README.md
	$(BIN)/python benchmarks/results_table.py --full --write docs/results.md

test:
	$(BIN)/python -m pytest -q

lint:
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy -p wm_plan
