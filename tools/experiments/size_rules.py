import json,numpy as np
A=[json.loads(l) for l in open("/tmp/sizes.jsonl")]
B=[json.loads(l) for l in open("/tmp/sizes2.jsonl")]
rows=[(f,s,k,tp,1,[[1,*r[:5],r[5],r[6],r[7],r[8]] for r in t]) for f,s,k,tp,t in A]+B
def rules(t):
    su,z=t[:,2],np.clip(t[:,3],0,None); r=np.tanh(z)
    return {"sure*z":su*z,"sure*sqrt z":su*np.sqrt(z),"sure*r":su*r,"sure*sqrt r":su*np.sqrt(r),"sure2*r":su**2*r,"sure2*z":su**2*z,"sure3*z":su**3*z,"suits":t[:,4]}
bad={}
for f,s,k,tp,pol,t in rows:
    t=np.array(t)
    for n,key in rules(t).items():
        i=int(np.argmax(key)); c=t[i,1]; own=t[t[:,0]==t[i,0]]
        for _ in range(2):
            mm=np.interp(np.log(c),np.log(own[:,1]),own[:,6])/12; c*=np.clip(mm,.7,1.4) if mm>0 else 1
        ok=t[i,0]==pol and .8<c/tp<1.25
        b=bad.setdefault(n,[0,0,[]]); b[1]+=1
        if not ok: b[0]+=1; b[2].append((f,s,k,"pol" if t[i,0]!=pol else "",round(float(t[i,1]/tp),2),round(float(c/tp),2),round(float(t[i,2]),2)))
for n,b in bad.items(): print(n,b[0],"of",b[1]); [print("    ",x) for x in b[2]]
print("two-step")
b=[0,0]
for f,s,k,tp,pol,t in rows:
    t=np.array(t); sign=t[int(np.argmax(t[:,2]*t[:,3])),0]; own=t[t[:,0]==sign]
    i=int(np.argmax(own[:,2])); c=own[i,1]
    for _ in range(2):
        mm=np.interp(np.log(c),np.log(own[:,1]),own[:,6])/12; c*=np.clip(mm,.7,1.4) if mm>0 else 1
    ok=sign==pol and .8<c/tp<1.25; b[1]+=1
    if not ok: b[0]+=1; print("   ",f,s,k,"pol" if sign!=pol else "",round(float(own[i,1]/tp),2),round(float(c/tp),2),round(float(own[i,2]),2))
print(b)
