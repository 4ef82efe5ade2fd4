import sys, numpy as np, torch, json, os
sys.path.insert(0,'/tmp/wt/ev/benchmarks')
torch.set_num_threads(1)
from layer_scenes import draw_scene, FAMILIES
import families as F
from moirelib.decomposition import load_weights
from moirelib.decomposition import particle_size as P
from moirelib import data
m=load_weights(device="cpu"); S=P.SEARCH; STEP=.3
def table(f):
    largest=max(min(f.shape)/S.across,S.widest*P.SMALLEST_DIAMETER)
    tr=np.geomspace(P.SMALLEST_DIAMETER,largest,2+int(np.log(largest/P.SMALLEST_DIAMETER)/STEP)); out=[]
    for sign in (1,-1):
      for d in tr:
        img=P.crop_middle(sign*f,d); mk,c=P.predict(m,img); n=P.measure_diameter(mk,c); l=P.locate(c,12.)
        q=P.measure_fit(sign*f,m,d)
        out.append([sign,d,q.sure,q.correlation,q.suits,q.significance,n or 0,len(l),float((l.score>.5).sum()),float(np.prod(img.shape)/144)])
    return out
def scenes():
    rf,nm=F.real_frame().frame(0) if hasattr(F.real_frame(),"frame") else F.real_frame(), 2.593
    rf=np.asarray(rf,np.float32)
    for name,c in (("whole",rf),("a",rf[:512,:512]),("b",rf[-400:,-400:]),("bin2",rf[:rf.shape[0]//2*2,:rf.shape[1]//2*2].reshape(rf.shape[0]//2,2,-1,2).mean((1,3))),("small",rf[300:500,300:500])): yield "real "+name,"real",0,80/nm/(2 if name=="bin2" else 1),c,1
    mv,tr=data.sample(); yield "sample","ours",0,tr.diameter_nm.median()/mv.pixel_size,mv.frame(0),1
    yield "inverted sample","ours",0,tr.diameter_nm.median()/mv.pixel_size,-mv.frame(0),-1
    for k in range(100,103):
        for f in F.FAMILIES:
            p=F.make_problem(f,F.FAMILIES[f],990,1,k); yield f,"cmp",k,p.truth.diameter_nm.median()/p.pixel_size,np.asarray(p.frame,np.float32),1
    for k in range(100,103):
        for f in FAMILIES:
            if f=="semi-real Moiré": continue
            for s in ("ours","beer-lambert"):
                p=draw_scene(f,s,k); yield f,s,k,p.diameter/p.pixel_size,p.frame,1
                if k==100: yield "inverted "+f,s,k,p.diameter/p.pixel_size,-p.frame,-1
with open("/tmp/sizes2.jsonl","w") as fh:
    for f,s,k,tp,im,pol in scenes():
        fh.write(json.dumps([f,s,k,tp,pol,table(im)])+"\n"); fh.flush()
