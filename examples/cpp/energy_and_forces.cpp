// Energy and forces of one structure from a package of `atomslim package`, without Python.
//
//   energy_and_forces model.pt2 < structure.txt
//
// The structure: the number of atoms, three lattice vectors (zeros where not periodic), then Z x y z of each atom.

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

using Vector = std::array<double, 3>;

struct Structure {
  std::array<Vector, 3> cell;
  std::vector<int64_t> numbers;
  std::vector<Vector> positions;
};

struct Neighbour {
  int64_t source;
  std::array<int64_t, 3> offset;
};

static double dot(const Vector& a, const Vector& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

static Structure read(std::istream& in) {
  size_t atoms = 0;
  in >> atoms;
  Structure structure;
  for (Vector& row : structure.cell) in >> row[0] >> row[1] >> row[2];
  structure.numbers.resize(atoms);
  structure.positions.resize(atoms);
  for (size_t atom = 0; atom < atoms; ++atom) {
    Vector& position = structure.positions[atom];
    in >> structure.numbers[atom] >> position[0] >> position[1] >> position[2];
  }
  if (!in) throw std::runtime_error("the structure is cut off");
  return structure;
}

// How many images each way can be within the cutoff: simple, and more than enough for cells longer than the atoms'
// extent. A program for dynamics has its own neighbour list.
static std::array<int64_t, 3> images(const Structure& structure, double cutoff) {
  double extent = 0;
  for (const Vector& a : structure.positions)
    for (const Vector& b : structure.positions)
      extent = std::max(extent, std::hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]));
  std::array<int64_t, 3> found{};
  for (int axis = 0; axis < 3; ++axis) {
    Vector height = structure.cell[axis];  // made perpendicular to the other vectors
    std::vector<Vector> others;
    for (int other : {(axis + 1) % 3, (axis + 2) % 3}) {
      Vector direction = structure.cell[other];
      for (const Vector& earlier : others)
        for (int i = 0; i < 3; ++i) direction[i] -= dot(structure.cell[other], earlier) * earlier[i];
      const double length = std::sqrt(dot(direction, direction));
      if (length == 0) continue;
      for (double& component : direction) component /= length;
      others.push_back(direction);
    }
    for (const Vector& other : others) {
      const double along = dot(structure.cell[axis], other);
      for (int i = 0; i < 3; ++i) height[i] -= along * other[i];
    }
    const double length = std::sqrt(dot(height, height));
    found[axis] = length > 0 ? static_cast<int64_t>((cutoff + extent) / length) + 1 : 0;
  }
  return found;
}

static std::vector<std::vector<Neighbour>> neighbours(const Structure& structure, double cutoff) {
  const auto reach = images(structure, cutoff);
  const int64_t atoms = structure.positions.size();
  std::vector<std::vector<Neighbour>> found(atoms);
  for (int64_t target = 0; target < atoms; ++target)
    for (int64_t source = 0; source < atoms; ++source)
      for (int64_t i = -reach[0]; i <= reach[0]; ++i)
        for (int64_t j = -reach[1]; j <= reach[1]; ++j)
          for (int64_t k = -reach[2]; k <= reach[2]; ++k) {
            if (source == target && i == 0 && j == 0 && k == 0) continue;
            Vector apart;
            for (int axis = 0; axis < 3; ++axis)
              apart[axis] = structure.positions[target][axis] - structure.positions[source][axis] -
                            i * structure.cell[0][axis] - j * structure.cell[1][axis] - k * structure.cell[2][axis];
            if (dot(apart, apart) <= (cutoff + 1e-6) * (cutoff + 1e-6)) found[target].push_back({source, {i, j, k}});
          }
  return found;
}

static std::vector<at::Tensor> inputs(const Structure& structure, double cutoff) {
  const auto found = neighbours(structure, cutoff);
  const int64_t atoms = found.size();
  size_t widest = 1;
  for (const auto& list : found) widest = std::max(widest, list.size());

  const auto integers = at::TensorOptions().dtype(at::kLong);
  at::Tensor positions = at::empty({atoms, 3}, at::kDouble), cell = at::empty({3, 3}, at::kDouble);
  at::Tensor numbers = at::empty({atoms}, integers);
  // An empty slot holds the atom itself with a zero offset.
  at::Tensor sources = at::arange(atoms, integers).unsqueeze(1).repeat({1, static_cast<int64_t>(widest)});
  at::Tensor offsets = at::zeros({atoms, static_cast<int64_t>(widest), 3}, integers);
  auto position = positions.accessor<double, 2>(), vector = cell.accessor<double, 2>();
  auto source = sources.accessor<int64_t, 2>();
  auto offset = offsets.accessor<int64_t, 3>();
  for (int row = 0; row < 3; ++row)
    for (int axis = 0; axis < 3; ++axis) vector[row][axis] = structure.cell[row][axis];
  for (int64_t atom = 0; atom < atoms; ++atom) {
    numbers[atom] = structure.numbers[atom];
    for (int axis = 0; axis < 3; ++axis) position[atom][axis] = structure.positions[atom][axis];
    for (size_t slot = 0; slot < found[atom].size(); ++slot) {
      source[atom][slot] = found[atom][slot].source;
      for (int axis = 0; axis < 3; ++axis) offset[atom][slot][axis] = found[atom][slot].offset[axis];
    }
  }
  const at::Tensor tags = at::full({atoms}, 2, integers);  // 0, 1, 2 for slabs with adsorbates
  return {positions, numbers, tags, cell, sources, offsets};
}

int main(int count, char** arguments) {
  if (count != 2) {
    std::cerr << "usage: energy_and_forces model.pt2 < structure.txt\n";
    return 2;
  }
  // --8<-- [start:energy]
  torch::inductor::AOTIModelPackageLoader loader(arguments[1]);
  const std::string description = loader.get_metadata().at("atomslim");  // JSON
  const std::string key = "\"cutoff\": ";
  const double cutoff = std::stod(description.substr(description.find(key) + key.size()));

  const std::vector<at::Tensor> outputs = loader.run(inputs(read(std::cin), cutoff));
  std::printf("%.9f\n", outputs[0].item<double>());  // eV
  const at::Tensor forces = outputs[1].contiguous();  // eV/Å
  // --8<-- [end:energy]
  for (int64_t atom = 0; atom < forces.size(0); ++atom) {
    const double* force = forces.const_data_ptr<double>() + 3 * atom;
    std::printf("%.9f %.9f %.9f\n", force[0], force[1], force[2]);
  }
}
