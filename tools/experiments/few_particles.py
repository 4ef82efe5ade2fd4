import numpy as np, torch, sys
torch.set_num_threads(1)
from moirelib.decomposition import load_weights
from moirelib.decomposition.particle_size import estimate_size_and_polarity as E
from moirelib.crystal import hexagonal_lattice
m=load_weights(device="cpu")
def img(size,d,pts,seed,absorb=.5,counts=300,blur=1.0):
    y,x=np.indices((size,size)); t=np.zeros((size,size))
    for a,b in pts: t+=np.sqrt(np.clip(1-((y-a)**2+(x-b)**2)/(d/2)**2,0,None))
    from scipy.ndimage import gaussian_filter
    return np.random.default_rng(seed).poisson(counts*gaussian_filter(np.exp(-absorb*t),blur)).astype(float)
bad=0;n=0
for size in (128,256):
  for d in (6,10,20,40):
    for kind in ("one","three","dozen","lattice"):
      for seed in range(1):
        r=np.random.default_rng(seed)
        if kind=="one": pts=r.uniform(d,size-d,(1,2))
        elif kind=="three": pts=r.uniform(d,size-d,(3,2))
        else:
            pts=hexagonal_lattice(1.25*d,r.uniform(0,60),(size/2,size/2),size)
            pts=pts[np.hypot(*(pts-size/2).T)<(2.3*d if kind=="dozen" else 2*size)]
        for s in (1,-1):
            f=img(size,d,pts,seed); got,pol=E([s*f],m,None); n+=1
            ok=pol==s and .75<got/d<1.33
            if not ok: bad+=1; print(size,d,kind,seed,s,"got %.2f"%(got/d),pol)
print("bad",bad,"of",n)
