import sys, numpy as np, torch, time
sys.path.insert(0,'/work/main/benchmarks')
torch.set_num_threads(1)
from layer_scenes import draw_scene
from moirelib.decomposition import load_weights
from moirelib.decomposition.particle_size import estimate_size_and_polarity
m=load_weights(device="cpu")
fam,sim,a,b=sys.argv[1],sys.argv[2],int(sys.argv[3]),int(sys.argv[4])
for k in range(a,b):
    p=draw_scene(fam,sim,k); t=time.time()
    d,pol=estimate_size_and_polarity([p.frame],m,None); r=d*p.pixel_size/p.diameter
    print(fam,sim,k,"shape",p.frame.shape,"true px",round(p.diameter/p.pixel_size,1),"ratio",round(r,3),pol,"n",len(p.truth),round(time.time()-t,1),"<<<" if not .8<r<1.25 else "",flush=True)
