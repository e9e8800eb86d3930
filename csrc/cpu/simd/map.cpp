// Maximum a posteriori by Levenberg-Marquardt: one person per item, all of its steps in one go.
#include "map_model.h"
//
#include "group.h"

namespace eft_fast {
namespace EFT_ISA {
namespace {

// A person takes 0.1 to 0.3 ms.
constexpr int64_t kGrain = 1;

// The memory of one worker.
template <typename S>
struct Work {
  MapBody<S> bodies[2];
  MapModel<S> model;
  alignas(64) S U[kSystemRows * kMapPadded], inverse[kMapPadded], step[kMapPadded];
};

// Memory in pieces of whole cache lines.
struct Pieces {
  char* next;
  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next);
    next += (count * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
};

template <typename S>
int64_t numbers_of_body(const cpu::MapProblem<S>& in) {
  return 3 * (in.rows + in.terms + in.sources) + 64;
}

template <typename S>
Work<S>& make_work(const cpu::MapProblem<S>& in, MapPerson<S>& person) {
  const int64_t numbers = 2 * numbers_of_body(in) + 9 * in.terms + 64;
  const size_t bytes =
      sizeof(Work<S>) + numbers * sizeof(S) + (in.sources + 1) * sizeof(MapTarget<S>) + 1024;
  Pieces pieces{static_cast<char*>(cpu::scratch(1, bytes))};
  Work<S>& work = *pieces.take<Work<S>>(1);
  for (MapBody<S>& body : work.bodies) {
    body.y = pieces.take<S>(3 * in.rows);
    body.moved = pieces.take<S>(3 * in.terms);
    body.points = pieces.take<S>(3 * in.sources);
  }
  work.model.pulled = pieces.take<S>(9 * in.terms);
  person.target = pieces.take<MapTarget<S>>(in.sources);
  return work;
}

// Numbers 0..count-1 sorted by key, each bucket from begin[key] on.
void sort_by(
    int64_t count, const int32_t* key, int step, int64_t keys, int32_t* order, int32_t* begin) {
  for (int64_t k = 0; k <= keys; ++k) begin[k] = 0;
  for (int64_t i = 0; i < count; ++i) ++begin[key[step * i] + 1];
  for (int64_t k = 0; k < keys; ++k) begin[k + 1] += begin[k];
  for (int64_t i = 0; i < count; ++i) order[begin[key[step * i]]++] = static_cast<int32_t>(i);
  for (int64_t k = keys; k > 0; --k) begin[k] = begin[k - 1];
  begin[0] = 0;
}

template <typename S>
MapShared<S>& share(const cpu::MapProblem<S>& in) {
  const size_t indices = in.terms + in.joint_terms + 2 * (in.sources + 2);
  Pieces pieces{
      static_cast<char*>(cpu::scratch(0, sizeof(MapShared<S>) + indices * sizeof(int32_t) + 1024))};
  MapShared<S>& shared = *pieces.take<MapShared<S>>(1);
  shared.term = pieces.take<int32_t>(in.terms);
  shared.term_begin = pieces.take<int32_t>(in.sources + 1);
  shared.joint = pieces.take<int32_t>(in.joint_terms);
  shared.joint_begin = pieces.take<int32_t>(in.sources + 1);
  sort_by(in.terms, in.term_index + 2, 3, in.sources, shared.term, shared.term_begin);
  sort_by(in.joint_terms, in.joint_index + 1, 2, in.sources, shared.joint, shared.joint_begin);
  for (int i = 0; i < kMapUnknowns * kMapPadded; ++i) shared.precision[i] = S(0);
  shared.has_fixed = false;
  for (int i = 0; i < kMapUnknowns; ++i) {
    const int row = math::map_column(i);
    for (int j = 0; j < kMapUnknowns; ++j)
      shared.precision[row * kMapPadded + math::map_column(j)] = in.precision[i * kMapUnknowns + j];
    shared.is_fixed[row] = in.free && !in.free[i];
    shared.has_fixed |= shared.is_fixed[row];
  }
  for (int j = 0; j < kJoints; ++j) {
    for (int m = 0; m < kStride<S>; ++m) shared.below[j][m] = S(0);
    for (int m = j; m >= 0; m = in.parents[m]) shared.below[j][m] = S(1);
  }
  constexpr int T = kStride<S>;
  for (int k = 0; k < kSkeletonRow; ++k)
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < T; ++j)
        shared.skeleton[k][i * T + j] =
            j < kJoints ? in.skeleton[(3 * j + i) * kSkeletonRow + k] : S(0);
  for (int j = 0; j < kJoints; ++j)
    for (int i = 0; i < 3; ++i)
      for (int k = 0; k < kShapePadded; ++k)
        shared.directions[j][i][k] =
            k < kBetas ? in.skeleton[(3 * j + i) * kSkeletonRow + 1 + k] : S(0);
  return shared;
}

// The full symmetric matrix in the order of the unknowns.
template <typename S>
void write_hessian(const MapModel<S>& model, S* out) {
  for (int i = 0; i < kMapUnknowns; ++i)
    for (int j = 0; j < kMapUnknowns; ++j) {
      const int a = math::map_column(i), b = math::map_column(j);
      out[i * kMapUnknowns + j] = model.H[(a < b ? a : b) * kMapPadded + (a < b ? b : a)];
    }
}

// `to` is `from` after a step: turned since the start by more, betas and camera moved.
template <typename S>
void take_step(const MapPerson<S>& person, const MapBody<S>& from, const S* step, MapBody<S>& to) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>, T = kStride<S>;
  for (int l = 0; l < T; l += W) {
    V d[3], q[4], turn[4], both[4];
    for (int c = 0; c < 3; ++c) {
      // What a vector reads beyond joint 23 belongs to the next number: lanes of no joint.
      d[c] = V::load(step + c * kJoints + l);
    }
    for (int e = 0; e < 4; ++e) turn[e] = V::load(from.turn + e * T + l);
    math::vector_to_quaternion(d, q);
    math::multiply_quaternions(turn, q, both);
    for (int e = 0; e < 4; ++e) both[e].store(to.turn + e * T + l);
  }
  for (int k = 0; k < kShapePadded; ++k)
    to.betas[k] = from.betas[k] + (k < kBetas ? step[kMapTurns + k] : S(0));
  const S log_scale = step[kMapScale] < S(-1)  ? S(-1)
                      : step[kMapScale] > S(1) ? S(1)
                                               : step[kMapScale];
  to.cam[0] = from.cam[0] * math::exponential(log_scale);
  for (int i = 1; i < 3; ++i) to.cam[i] = from.cam[i] + step[kMapScale + i] * person.frame;
}

template <typename S>
struct Solver {
  const cpu::MapSolve<S>& args;
  MapPerson<S>& person;
  Work<S>& work;
  MapBody<S>*body, *trial;
  double damping;
  bool has_moved, is_better;

  // Solves once and moves where the energy falls; whether the model promised too little.
  bool advance() {
    is_better = false;
    double promise = -1, energy = 0;
    const double before = body->energy;
    if (factorise(work.model.H, static_cast<S>(damping), work.U, work.inverse)) {
      solve_factorised(work.U, work.inverse, work.model.gradient, work.step);
      promise = promised();
      take_step(person, *body, work.step, *trial);
      measure_body(person, *trial);
      energy = trial->energy;
      is_better = energy < before;  // False for NaN; minus infinity cannot be.
    }
    const bool is_done = promise >= 0 && (1 + damping) * promise <= args.tolerance * before;
    damping = math::map_next_damping(damping, is_better, (before - energy) / promise);
    if (is_better) {
      MapBody<S>* old = body;
      body = trial;
      trial = old;
      has_moved = true;
    }
    return is_done;
  }

  // What the model says the energy falls by: -2 g d - d H d with (H + damping diag H) d = -g.
  double promised() const {
    double sum = 0;
    for (int i = 0; i < kMapUnknowns; ++i) {
      const double d = work.step[i];
      sum += d * (damping * work.model.H[i * kMapPadded + i] * d - work.model.gradient[i]);
    }
    return sum;
  }

  void run() {
    const int64_t b = person.b;
    load_person(person, *body);
    measure_body(person, *body);
    const bool is_finite = body->energy - body->energy == 0;
    bool is_done = false, has_model = false;
    int32_t count = 0;
    damping = args.damping;
    has_moved = false;
    for (; is_finite && !is_done && count < args.steps; ++count) {
      if (!has_model) make_model(person, *body, work.model);
      is_done = advance();
      has_model = !is_better;
    }
    args.count[b] = count;
    args.converged[b] = is_done;
    args.finite[b] = is_finite;
    write();
    if (!args.hessian) return;
    if (is_finite && !has_model) make_model(person, *body, work.model);
    S* hessian = args.hessian + b * kMapUnknowns * kMapUnknowns;
    if (is_finite) write_hessian(work.model, hessian);
    for (int i = 0; !is_finite && i < kMapUnknowns * kMapUnknowns; ++i)
      hessian[i] = __builtin_nan("");
  }

  // Without a step the answer is the start as it came.
  void write() {
    const int64_t b = person.b;
    const cpu::MapState<S>& begin = args.in.begin;
    for (int j = 0; j < kJoints; ++j)
      for (int e = 0; e < 9; ++e)
        args.rotmat[(b * kJoints + j) * 9 + e] =
            has_moved ? body->R[e * kStride<S> + j] : begin.rotmat[(b * kJoints + j) * 9 + e];
    for (int k = 0; k < kBetas; ++k) args.betas[b * kBetas + k] = body->betas[k];
    for (int i = 0; i < 3; ++i) args.cam[3 * b + i] = body->cam[i];
    args.energy[b] = static_cast<S>(body->energy);
    args.data[b] = static_cast<S>(body->data);
  }
};

template <typename S>
void solve(const cpu::MapSolve<S>& args) {
  const MapShared<S>& shared = share(args.in);
  auto item = [&](int64_t b) {
    MapPerson<S> person{args.in, shared, b};
    Work<S>& work = make_work(args.in, person);
    Solver<S> solver{args, person, work, &work.bodies[0], &work.bodies[1]};
    solver.run();
  };
  for_each_item(args.pool, args.in.people, kGrain, item);
}

template <typename S>
void evaluate(const cpu::MapEvaluate<S>& args) {
  const MapShared<S>& shared = share(args.in);
  auto item = [&](int64_t b) {
    MapPerson<S> person{args.in, shared, b};
    Work<S>& work = make_work(args.in, person);
    MapBody<S>& body = work.bodies[0];
    load_person(person, body);
    measure_body(person, body);
    make_model(person, body, work.model);
    args.energy[b] = static_cast<S>(body.energy);
    args.data[b] = static_cast<S>(body.data);
    for (int i = 0; i < kMapUnknowns; ++i)
      args.gradient[b * kMapUnknowns + i] = work.model.gradient[math::map_column(i)];
    write_hessian(work.model, args.hessian + b * kMapUnknowns * kMapUnknowns);
  };
  for_each_item(args.pool, args.in.people, kGrain, item);
}

}  // namespace

void map_solve(const cpu::MapSolve<float>& args) { solve(args); }
void map_solve(const cpu::MapSolve<double>& args) { solve(args); }
void map_evaluate(const cpu::MapEvaluate<float>& args) { evaluate(args); }
void map_evaluate(const cpu::MapEvaluate<double>& args) { evaluate(args); }

}  // namespace EFT_ISA
}  // namespace eft_fast
